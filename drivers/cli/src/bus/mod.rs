//! `net bus`: events to and from Redis Streams, NATS JetStream and nodes of the mesh.

pub mod bench;
mod connect;
mod emit;
mod keep;
mod lines;
mod place;
mod status;
mod tail;

use net_sdk::SdkError;
use net_sdk::net::AdapterError;

use crate::args::Bus;
use crate::config::Config;
use crate::failure::{Code, Failure, Result};
use crate::output::Output;

/// The command.
pub async fn run(args: Bus, config: &Config, output: Output) -> Result<()> {
    match args {
        Bus::Emit(args) => emit::run(args, config, output).await,
        Bus::Tail(args) => tail::run(args, config, output).await,
        Bus::Status(args) => status::run(args, config, output).await,
        Bus::Keep(args) => keep::run(args, config, output).await,
        Bus::BenchKeeper => bench::keeper().await,
        // `main` ran it.
        Bus::Bench(_) => Ok(()),
    }
}

impl From<AdapterError> for Failure {
    fn from(error: AdapterError) -> Self {
        let refused = |remedy: &str| Self::new(Code::Refused, &error).remedy(remedy);
        match &error {
            AdapterError::Connection(_) | AdapterError::Timeout(_) => {
                Self::new(Code::Unreachable, &error).remedy("is it running, and are address and port right?")
            }
            AdapterError::Full(_) => refused("make room there, or limit what is kept with --retain"),
            AdapterError::Denied(_) => {
                refused("user and password go into the address, authorities into --ca")
            }
            AdapterError::Conflict(_) => {
                refused("--replicas and --retain must be what was given first; another --name is another bus")
            }
            AdapterError::Gone(_) => {
                refused("is --name right? `net bus keep NAME` keeps events of that name")
            }
            AdapterError::Protocol(_) => refused("does something else answer at this address?"),
            AdapterError::Config(_) => Self::usage(&error),
            _ => Self::failed(&error),
        }
    }
}

impl From<SdkError> for Failure {
    fn from(error: SdkError) -> Self {
        match error {
            SdkError::Adapter(error) | SdkError::Unconfirmed { why: Some(error) } => error.into(),
            SdkError::Unconfirmed { why: None } => Self::new(Code::Unreachable, error),
            SdkError::Limit { .. } | SdkError::Config(_) | SdkError::BadText(_) | SdkError::Filter(_) => {
                Self::usage(error)
            }
            SdkError::Outbox(_) | SdkError::Identity { .. } => Self::failed(error).remedy(
                "one process at a time uses an outbox; a damaged one is left as it is: name another folder",
            ),
            error => Self::failed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_can_tell_why_it_failed() {
        let code = |error: AdapterError| Failure::from(SdkError::from(error)).code;
        assert_eq!(code(AdapterError::Connection(String::new())), Code::Unreachable);
        assert_eq!(code(AdapterError::Timeout(String::new())), Code::Unreachable);
        assert_eq!(code(AdapterError::Denied(String::new())), Code::Refused);
        assert_eq!(code(AdapterError::Conflict(String::new())), Code::Refused);
        assert_eq!(code(AdapterError::Config(String::new())), Code::Usage);
        let why = Some(AdapterError::Full("disk".into()));
        let failure = Failure::from(SdkError::Unconfirmed { why });
        assert_eq!(failure.code, Code::Refused);
        assert!(failure.what.contains("disk") && failure.remedy.is_some());
    }
}
