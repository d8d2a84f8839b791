//! Why the program ends early: one line for people, a remedy, and the exit code that scripts rely on.

use std::fmt;

use net_sdk::{DialError, Error};

/// Exit codes. They are part of the program's interface: `docs/CLI.md` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Something failed that no other code names.
    Failed = 1,
    /// The arguments make no sense. clap uses the same number.
    Usage = 2,
    /// No peer answered, or it is gone.
    Unreachable = 3,
    /// The peer answered and refused.
    Refused = 4,
    /// Bytes arrived that are not those that were sent, or not all did.
    NotVerified = 5,
    /// A replay did something else than its record.
    Differs = 6,
}

/// Why the program ends early.
#[derive(Debug)]
pub struct Failure {
    /// What the process exits with.
    pub code: Code,
    /// What happened, as one line.
    pub what: String,
    /// What to do about it, if the program knows.
    pub remedy: Option<String>,
}

/// The result of everything that can end the program.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure with this code.
    pub fn new(code: Code, what: impl fmt::Display) -> Self {
        Self { code, what: what.to_string(), remedy: None }
    }

    /// A failure that no special code names.
    pub fn failed(what: impl fmt::Display) -> Self {
        Self::new(Code::Failed, what)
    }

    /// Bad arguments.
    pub fn usage(what: impl fmt::Display) -> Self {
        Self::new(Code::Usage, what)
    }

    /// The same with a remedy.
    pub fn remedy(mut self, remedy: impl fmt::Display) -> Self {
        self.remedy = Some(remedy.to_string());
        self
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            Error::Dial(DialError::TimedOut(_)) => Self::new(Code::Unreachable, &error).remedy(
                "is the peer running, is its address right and its UDP port open? A wrong mesh key is met with \
                 silence too: get a new invite",
            ),
            Error::Dial(DialError::NoAddress) => Self::new(Code::Unreachable, &error)
                .remedy("the ticket names no address of a family that this node has bound"),
            Error::Dial(DialError::Refused(_) | DialError::Version { .. }) => Self::new(Code::Refused, &error),
            Error::Dial(DialError::BadAnswer) => {
                Self::new(Code::Refused, &error).remedy("does the peer run another version of this program?")
            }
            Error::Dial(DialError::BadEntity) => {
                Self::new(Code::Usage, &error).remedy("a node cannot connect to itself; use another --dir")
            }
            Error::Dial(_) | Error::Disconnected(_) => Self::new(Code::Unreachable, &error),
            Error::Stopped(_) | Error::Reset(_) => Self::new(Code::Refused, &error),
            Error::Bind { .. } => {
                Self::failed(&error).remedy("choose another address with --bind, port 0 for any free one")
            }
            Error::BadAddress(_) | Error::Identity(_) => Self::usage(&error),
            Error::State(_) => {
                Self::failed(&error).remedy("one node at a time uses a state directory; choose another with --dir")
            }
            Error::Observe { .. } => {
                Self::failed(&error).remedy("name a file that does not exist yet; %t in it becomes the time")
            }
            _ => Self::failed(&error),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn scripts_can_tell_silence_from_refusal() {
        let code = |e: DialError| Failure::from(Error::Dial(e)).code;
        assert_eq!(code(DialError::TimedOut(Duration::from_secs(1))), Code::Unreachable);
        assert_eq!(code(DialError::Refused(7)), Code::Refused);
        assert_eq!(code(DialError::BadAnswer), Code::Refused);
        assert_eq!(code(DialError::Version { ours: (1, 1), theirs: (2, 2) }), Code::Refused);
    }
}
