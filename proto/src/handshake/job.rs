//! The steps that cost Diffie-Hellman operations, as values that run anywhere.
//!
//! A job is a pure function of what it holds: run twice, it gives the same result. It carries the
//! Noise state of the step before if there is one, and makes that state again from the seed if there
//! is none. So a live node does every operation once, while a [`JobDone`] that went through a trace,
//! where the Noise state is left out, still leads to the same bytes and keys.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::api::Secrets;
use super::keys::data_key;
use super::noise::{Noise, Seed};
use super::wire::{Hello, Welcome};
use crate::codec::Wire;
use crate::identity::EntityId;
use crate::session::aead::Cipher;

/// Heavy work as a value; 50 to 250 µs each. Holds secrets, zeroised when dropped.
pub struct Job(pub(super) Work);

pub(super) enum Work {
    /// Write message 1.
    Initiate { seed: Seed, peer: EntityId, payload: Vec<u8> },
    /// Read message 1 and check who sent it.
    Read { seed: Seed, message: Vec<u8> },
    /// Write message 2 and derive the keys.
    Answer { noise: Option<Box<Noise>>, seed: Seed, message1: Vec<u8>, payload: Vec<u8>, cipher: Cipher },
    /// Read message 2 and derive the keys.
    Finish { noise: Option<Box<Noise>>, seed: Seed, peer: EntityId, payload1: Vec<u8>, message: Vec<u8> },
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Work::Initiate { .. } => "Job(initiate)",
            Work::Read { .. } => "Job(read)",
            Work::Answer { .. } => "Job(answer)",
            Work::Finish { .. } => "Job(finish)",
        })
    }
}

/// What came of a [`Job`]. Holds secrets: a trace with it belongs in a file of mode 0600.
#[derive(Serialize, Deserialize)]
pub struct JobDone {
    pub(super) outcome: Outcome,
    /// For the next step. Left out of traces: the next job then makes it again.
    #[serde(skip)]
    pub(super) noise: Option<Box<Noise>>,
}

/// A copy leaves the Noise state out, as a trace does.
impl Clone for JobDone {
    fn clone(&self) -> Self {
        Self { outcome: self.outcome.clone(), noise: None }
    }
}

impl fmt::Debug for JobDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.outcome {
            Outcome::Initiated(_) => "JobDone(initiated)",
            Outcome::Read(_) => "JobDone(read)",
            Outcome::Answered(_) => "JobDone(answered)",
            Outcome::Finished(_) => "JobDone(finished)",
        })
    }
}

/// Why a step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Fault {
    /// It does not decrypt, decode, or give a secret.
    Message,
    /// The entity id is not admissible or not the one of the static key.
    Identity,
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) enum Outcome {
    Initiated(Result<Vec<u8>, Fault>),
    Read(Result<Hello, Fault>),
    Answered(Result<(Vec<u8>, Secrets), Fault>),
    Finished(Result<(Welcome, Secrets), Fault>),
}

impl Job {
    /// Names the job by all that its outcome depends on, so that a simulator may remember the outcome.
    #[cfg(feature = "testing")]
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = blake3::Hasher::new();
        // Every part with its length: no two jobs are the same bytes.
        let mut part = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        let seed = match &self.0 {
            Work::Initiate { seed, peer, payload } => {
                [b"initiate".as_slice(), &peer.0, payload].into_iter().for_each(&mut part);
                seed
            }
            Work::Read { seed, message } => {
                [b"read".as_slice(), message].into_iter().for_each(&mut part);
                seed
            }
            Work::Answer { noise: _, seed, message1, payload, cipher } => {
                let cipher = [cipher.bit()];
                [b"answer".as_slice(), message1, payload, &cipher].into_iter().for_each(&mut part);
                seed
            }
            Work::Finish { noise: _, seed, peer, payload1, message } => {
                [b"finish".as_slice(), &peer.0, payload1, message].into_iter().for_each(&mut part);
                seed
            }
        };
        let Seed { secret, ephemeral, psk0, psk2, prologue } = seed;
        [&secret[..], ephemeral, psk0, psk2, prologue].into_iter().for_each(&mut part);
        *hash.finalize().as_bytes()
    }

    /// Does the work. Blocks for that long; never panics.
    pub fn run(self) -> JobDone {
        match self.0 {
            Work::Initiate { seed, peer, payload } => match initiate(&seed, &peer, &payload) {
                Ok((noise, message)) => done(Outcome::Initiated(Ok(message)), Some(noise)),
                Err(fault) => done(Outcome::Initiated(Err(fault)), None),
            },
            Work::Read { seed, message } => match read(&seed, &message) {
                Ok((noise, hello)) => done(Outcome::Read(Ok(hello)), Some(noise)),
                Err(fault) => done(Outcome::Read(Err(fault)), None),
            },
            Work::Answer { noise, seed, message1, payload, cipher } => {
                let noise = noise.map_or_else(|| read(&seed, &message1).map(|(noise, _)| noise), Ok);
                done(Outcome::Answered(noise.and_then(|noise| answer(noise, &payload, cipher))), None)
            }
            Work::Finish { noise, seed, peer, payload1, message } => {
                let noise =
                    noise.map_or_else(|| initiate(&seed, &peer, &payload1).map(|(noise, _)| noise), Ok);
                match noise {
                    Ok(mut noise) => match finish(&mut noise, &message) {
                        Ok(made) => done(Outcome::Finished(Ok(made)), None),
                        // snow takes a failed read back: the next message 2 may still be the right one.
                        Err(fault) => done(Outcome::Finished(Err(fault)), Some(noise)),
                    },
                    Err(fault) => done(Outcome::Finished(Err(fault)), None),
                }
            }
        }
    }
}

fn done(outcome: Outcome, noise: Option<Box<Noise>>) -> JobDone {
    JobDone { outcome, noise }
}

fn initiate(seed: &Seed, peer: &EntityId, payload: &[u8]) -> Result<(Box<Noise>, Vec<u8>), Fault> {
    let key = peer.x25519().map_err(|_| Fault::Identity)?;
    let mut noise = Noise::initiator(seed, &key).map_err(|_| Fault::Message)?;
    let message = noise.write(payload).map_err(|_| Fault::Message)?;
    Ok((Box::new(noise), message))
}

fn read(seed: &Seed, message: &[u8]) -> Result<(Box<Noise>, Hello), Fault> {
    let mut noise = Noise::responder(seed).map_err(|_| Fault::Message)?;
    let payload = noise.read(message).map_err(|_| Fault::Message)?;
    let hello = Hello::decode_exact(&payload).map_err(|_| Fault::Message)?;
    // The X25519 form drops the sign and the torsion part, so the id counts only if it is the one
    // point of its kind and has exactly the key that Noise proved.
    hello.entity.admit().map_err(|_| Fault::Identity)?;
    let claimed = hello.entity.x25519().map_err(|_| Fault::Identity)?;
    if noise.remote_static() != Some(claimed) {
        return Err(Fault::Identity);
    }
    Ok((Box::new(noise), hello))
}

fn answer(mut noise: Box<Noise>, payload: &[u8], cipher: Cipher) -> Result<(Vec<u8>, Secrets), Fault> {
    let message = noise.write(payload).map_err(|_| Fault::Message)?;
    let split: Zeroizing<_> = noise.split();
    let secrets = Secrets { send: data_key(&split.1, cipher), recv: data_key(&split.0, cipher), cipher };
    Ok((message, secrets))
}

fn finish(noise: &mut Noise, message: &[u8]) -> Result<(Welcome, Secrets), Fault> {
    let payload = noise.read(message).map_err(|_| Fault::Message)?;
    let welcome = Welcome::decode_exact(&payload).map_err(|_| Fault::Message)?;
    let split = noise.split();
    let cipher = welcome.cipher;
    let secrets = Secrets { send: data_key(&split.0, cipher), recv: data_key(&split.1, cipher), cipher };
    Ok((welcome, secrets))
}
