use std::time::{Duration, Instant};

use net_proto::path::Ecn;

use super::*;
use crate::runtime::{Transmit, UdpOptions};

/// Receives until `count` datagrams came; the socket blocks in the kernel with a time limit.
fn collect(socket: &UdpSocket, count: usize) -> Vec<(Ecn, Vec<u8>)> {
    let mut memory = Slots::new();
    let mut got = Vec::new();
    let start = Instant::now();
    while got.len() < count {
        match socket.recv(&mut memory) {
            Ok(batch) => batch.for_each(|_, _, ecn, data| got.push((ecn, data.to_vec()))),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(e) => panic!("{e}"),
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{} of {count} datagrams came", got.len());
    }
    got
}

fn pair(at: &str, options: UdpOptions) -> (UdpSocket, UdpSocket) {
    let at = at.parse().unwrap();
    (UdpSocket::bind(at, &options).unwrap(), UdpSocket::bind(at, &options).unwrap())
}

#[test]
fn a_batch_keeps_boundaries_and_ecn_in_both_families() {
    for at in ["127.0.0.1:0", "[::1]:0"] {
        let (a, b) = pair(at, UdpOptions::default());
        let data: Vec<u8> = (0..10 * 1200 - 100).map(|i| (i / 1200) as u8).collect();
        let segments = if a.caps().segments > 1 { vec![&data[..]] } else { data.chunks(1200).collect() };
        for data in segments {
            let t = Transmit { to: b.local_addr(), from: None, ecn: Ecn::Ect0, data, segment: Some(1200) };
            a.try_send(&t).unwrap();
        }
        let got = collect(&b, 10);
        for (i, (ecn, datagram)) in got.iter().enumerate() {
            assert_eq!(*ecn, Ecn::Ect0, "coalesced datagrams keep their ECN bits");
            assert_eq!(datagram.len(), if i == 9 { 1100 } else { 1200 });
            assert!(datagram.iter().all(|byte| *byte == i as u8));
        }
    }
}

#[test]
fn a_receive_with_a_buffer_to_spare_knows_that_the_socket_is_empty() {
    let (a, b) = pair("127.0.0.1:0", UdpOptions::default());
    let mut memory = Slots { slots: vec![Slot::new(SLOT)], ..Slots::new() };
    let mut one = |byte| {
        send_one(&a, &b, byte);
        while b.fill(&mut memory).is_err() {
            assert!(!memory.drained(), "nothing was received");
            std::thread::yield_now();
        }
        memory.drained()
    };
    // It has one buffer, and takes another when that was full.
    assert!(!one(1));
    assert_eq!(one(2), cfg!(any(target_os = "linux", target_os = "android")));
}

fn send_one(a: &UdpSocket, b: &UdpSocket, byte: u8) {
    let t = Transmit { to: b.local_addr(), from: None, ecn: Ecn::NotEct, data: &[byte], segment: None };
    a.try_send(&t).unwrap();
}

#[test]
fn sockets_that_receive_in_turn_share_memory() {
    let (a, b) = pair("127.0.0.1:0", UdpOptions::default());
    let mut used = std::collections::HashSet::new();
    let mut sockets: Vec<_> = (0..100).map(|_| Slots::new()).collect();
    for memory in &mut sockets {
        send_one(&a, &b, 7);
        while b.fill(memory).is_err() {
            std::thread::yield_now();
        }
        let batch = memory.batch();
        assert_eq!(batch.0[0].buf[0], 7);
        used.insert(batch.0[0].buf.as_ptr());
        memory.rest();
        assert_eq!(memory.batch().0.len(), 0, "what rests belongs to others");
    }
    // Tests beside this one take from the same memory.
    assert!(used.len() < 50, "{} buffers for sockets that never receive at once", used.len());
}

#[test]
fn without_gso_a_batch_is_refused_and_nothing_is_sent() {
    let (a, b) = pair("127.0.0.1:0", UdpOptions { gso: false, ecn: false, ..UdpOptions::default() });
    let t = Transmit { to: b.local_addr(), from: None, ecn: Ecn::Ect0, data: &[1; 300], segment: Some(100) };
    assert_eq!(a.try_send(&t).unwrap_err().kind(), std::io::ErrorKind::Unsupported);
    a.try_send(&Transmit { segment: None, data: &[2; 50], ..t }).unwrap();
    assert_eq!(collect(&b, 1), [(Ecn::NotEct, vec![2; 50])]);
    assert!(a.caps().send_buffer > 0 && a.caps().recv_buffer > 0);
}

#[test]
fn what_the_system_refuses_becomes_what_the_driver_knows() {
    use std::io::{Error, ErrorKind};
    let raw = |number| Err(Error::from_raw_os_error(number));
    // Both numbers that network cards without working offload answer with.
    for number in [5, 22] {
        let (a, b) = pair("127.0.0.1:0", UdpOptions::default());
        if a.caps().segments < 2 {
            return; // nothing to lose on this system
        }
        assert_eq!(
            a.outcome(raw(number), false).unwrap_err().raw_os_error(),
            Some(number),
            "one datagram's own fault"
        );
        assert!(a.caps().segments > 1);
        assert_eq!(a.outcome(raw(number), true).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(a.caps().segments, 1, "remembered");
        let t =
            Transmit { to: b.local_addr(), from: None, ecn: Ecn::Ce, data: &[1; 300], segment: Some(100) };
        assert_eq!(a.try_send(&t).unwrap_err().kind(), ErrorKind::Unsupported);
        a.try_send(&Transmit { segment: None, data: &[2; 50], ..t }).unwrap();
        assert_eq!(collect(&b, 1), [(Ecn::Ce, vec![2; 50])], "nothing of the refused batch came");
    }
    #[cfg(target_os = "linux")]
    {
        let (a, _b) = pair("127.0.0.1:0", UdpOptions::default());
        assert_eq!(a.outcome(raw(105), true).unwrap_err().kind(), ErrorKind::ResourceBusy, "ENOBUFS");
        assert_eq!(a.outcome(raw(11), true).unwrap_err().kind(), ErrorKind::WouldBlock, "EAGAIN");
        assert!(a.caps().segments > 1);
    }
}
