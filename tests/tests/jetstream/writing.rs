//! Order without holes, whoever else writes.

use super::*;

use net_sdk::net::PollRequest;

#[test]
fn producers_that_share_a_shard_keep_their_orders() {
    let server = Server::start(Nats::new());
    on_tokio(async |_| {
        let buses = [bus(JetStream::new(server.url())).await, bus(JetStream::new(server.url())).await];
        for n in 0..2000u32 {
            for bus in &buses {
                bus.emit_raw(n.to_le_bytes()).expect("room");
            }
            if n % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
        for bus in &buses {
            soon("flush", bus.flush()).await.expect("flushed");
        }
        let page = buses[0].poll(PollRequest::new().limit(10_000)).await.expect("a page");
        assert_eq!((page.events.len(), page.lost.len()), (4000, 0), "each once");
        for bus in &buses {
            let own =
                page.events.iter().filter(|e| e.id.is_some_and(|id| id.producer == bus.bus().producer()));
            assert!(own.map(|e| e.id.map(|id| id.seq)).eq((1..=2000).map(Some)), "in order, without holes");
        }
        for bus in &buses {
            soon("shutdown", bus.shutdown()).await;
        }
    });
}

#[test]
fn a_stranger_in_between_makes_no_hole() {
    let server = Server::start(Nats::new());
    on_smol(async |_| {
        let bus = bus(JetStream::new(server.url())).await;
        let url = server.url();
        let stranger = std::thread::spawn(move || {
            admin(&url, |js| async move {
                for _ in 0..300 {
                    js.publish("net.shard.0.stranger", "x".into())
                        .await
                        .expect("sent")
                        .await
                        .expect("stored");
                }
            });
        });
        let mut emitted = 0u32;
        while !stranger.is_finished() {
            for _ in 0..50 {
                bus.emit_raw(emitted.to_le_bytes()).expect("room");
                emitted += 1;
            }
            soon("flush", bus.flush()).await.expect("flushed");
        }
        let page = bus.poll(PollRequest::new().limit(1_000_000)).await.expect("a page");
        let own: Vec<_> = page.events.iter().filter_map(|e| Some(e.id?.seq)).collect();
        assert!(own.iter().copied().eq(1..=u64::from(emitted)), "{emitted} events");
        assert_eq!(page.events.len() - own.len(), 300);
        soon("shutdown", bus.shutdown()).await;
    });
}
