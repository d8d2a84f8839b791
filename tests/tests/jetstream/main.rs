//! The event bus on NATS JetStream, against servers of its own.

mod cluster;
mod errors;
mod kills;
mod reading;
mod writing;

use std::sync::Arc;
use std::time::Duration;

use net_sdk::nats::{Durable, JetStream, JetStreamAdapter};
use net_sdk::net::{Item, StoredEvent, Subscription};
use net_sdk::{Net, Runtime};
use net_shell::bus::conformance::{conformance, losses};
use net_tests::servers::Server;
use net_tests::servers::nats::Nats;

/// Runs a test with a runtime of its own: tokio or smol.
fn on_tokio<F: Future<Output = ()>>(test: impl FnOnce(Arc<dyn Runtime>) -> F) {
    let rt =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio");
    rt.block_on(async {
        let runtime: Arc<dyn Runtime> = Arc::new(net_tokio::Tokio::current().expect("tokio"));
        net_sdk::rt::enter(runtime.clone(), test(runtime)).await;
    });
}

fn on_smol<F: Future<Output = ()>>(test: impl FnOnce(Arc<dyn Runtime>) -> F) {
    let runtime: Arc<dyn Runtime> = Arc::new(net_smol::Smol::new());
    smol::block_on(net_sdk::rt::enter(runtime.clone(), test(runtime)));
}

/// A hang becomes a failure that says where.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match net_sdk::rt::timeout(Duration::from_secs(60), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} took longer than a minute"),
    }
}

/// Waits until something is as it should be.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    soon(what, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            net_sdk::rt::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// Short times, so that what fails fails soon.
fn impatient(server: &Server<Nats>) -> JetStream {
    JetStream::new(server.url()).request_timeout(Duration::from_secs(1))
}

/// The number of the next delivery, once it is noted. `None` after a failure, which passes.
async fn noted(work: &mut Durable) -> Option<u64> {
    let failed = match soon("a delivery", work.next()).await.expect("a shard") {
        Ok(delivery) => {
            let at = delivery.position.minor;
            match delivery.ack().await {
                Ok(()) => return Some(at),
                Err(error) => error,
            }
        }
        Err(error) => error,
    };
    assert!(failed.is_retryable(), "{failed}");
    None
}

async fn bus(options: JetStream) -> Net {
    Net::builder().shards(1).jetstream(options).build().await.expect("a bus")
}

async fn next(subscription: &mut Subscription) -> Item {
    soon("an item", subscription.next()).await.expect("no end").expect("no error")
}

async fn event(subscription: &mut Subscription) -> StoredEvent {
    match next(subscription).await {
        Item::Event(event) => event,
        other => panic!("{other:?}"),
    }
}

/// A client that knows nothing of the bus, on a thread of its own.
fn admin<T: Send + 'static, F>(
    url: &str,
    work: impl FnOnce(async_nats::jetstream::Context) -> F + Send + 'static,
) -> T
where
    F: Future<Output = T>,
{
    let url = url.to_owned();
    let thread = std::thread::spawn(move || {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio");
        rt.block_on(async {
            let client = async_nats::connect(url).await.expect("a connection");
            work(async_nats::jetstream::new(client)).await
        })
    });
    thread.join().expect("no panic")
}

fn conforms(runtime: Arc<dyn Runtime>, server: &Server<Nats>, prefix: &str) -> impl Future<Output = ()> {
    let options = JetStream::new(server.url()).prefix(prefix);
    conformance(runtime, move || Arc::new(JetStreamAdapter::new(options.clone())))
}

#[test]
fn the_adapter_conforms_on_tokio() {
    let server = Server::start(Nats::new());
    on_tokio(|runtime| conforms(runtime, &server, "tokio"));
}

#[test]
fn what_the_engine_forgot_is_told() {
    let server = Server::start(Nats::new());
    on_smol(|runtime| {
        let url = server.url();
        let forget = async move |last: net_sdk::net::Position| {
            admin(&url, move |js| async move {
                let stream = js.get_stream("net_shard_0").await.expect("the stream");
                stream.purge().sequence(last.minor + 1).await.expect("purged");
            });
        };
        let adapter = JetStreamAdapter::new(JetStream::new(server.url()));
        losses(runtime, Arc::new(adapter), forget)
    });
}

#[test]
fn the_adapter_conforms_on_smol() {
    let server = Server::start(Nats::new());
    on_smol(|runtime| conforms(runtime, &server, "smol"));
}
