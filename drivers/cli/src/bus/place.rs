//! Where a reader stands, in a file that survives crashes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use net_sdk::net::Cursor;

use crate::failure::{Failure, Result};

/// A cursor as the user gives it: the token, or its long form.
pub fn parse(text: &str) -> Result<Cursor> {
    let text = text.trim();
    Cursor::from_token(text).or_else(|_| text.parse()).map_err(|_| {
        Failure::usage(format_args!("`{text}` is neither oldest nor newest nor a cursor"))
            .remedy("`net bus tail` prints the cursor at its end")
    })
}

/// The file of a reader.
pub struct Place {
    path: PathBuf,
    kept: Option<Cursor>,
}

impl Place {
    /// With what an earlier run left there.
    pub fn open(path: PathBuf) -> Result<Self> {
        let kept = match fs::read_to_string(&path) {
            Ok(text) => Some(parse(&text).map_err(|_| {
                Failure::usage(format_args!("{} holds no cursor", path.display()))
                    .remedy("it is left as it is; name another file, or remove it to begin anew")
            })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Failure::usage(format_args!("{}: {error}", path.display()))),
        };
        Ok(Self { path, kept })
    }

    /// Where the last run ended.
    pub const fn kept(&self) -> Option<&Cursor> {
        self.kept.as_ref()
    }

    /// From now on the place is this one. After a crash the file holds this or the one before.
    pub fn keep(&mut self, cursor: &Cursor) -> Result<()> {
        if self.kept.as_ref() == Some(cursor) {
            return Ok(());
        }
        replace(&self.path, format!("{}\n", cursor.token()).as_bytes())
            .map_err(|error| Failure::failed(format_args!("{}: {error}", self.path.display())))?;
        self.kept = Some(cursor.clone());
        Ok(())
    }
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let mut file = File::create(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    #[cfg(unix)]
    {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use net_sdk::net::Position;

    #[test]
    fn a_place_is_found_again_and_a_strange_file_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("place");
        let mut place = Place::open(path.clone()).unwrap();
        assert_eq!(place.kept(), None);
        let mut cursor = Cursor::new();
        for minor in 1..=3 {
            cursor.set(2, Position::new(7, minor));
            place.keep(&cursor).unwrap();
            assert_eq!(Place::open(path.clone()).unwrap().kept(), Some(&cursor));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left there");
        assert_eq!(parse(&cursor.to_string()).unwrap(), cursor);
        // What a crash in the middle of writing leaves beside it does not matter.
        fs::write(dir.path().join("place.new"), "half").unwrap();
        assert_eq!(Place::open(path.clone()).unwrap().kept(), Some(&cursor));
        fs::write(&path, "something else").unwrap();
        assert!(Place::open(path.clone()).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "something else");
    }
}
