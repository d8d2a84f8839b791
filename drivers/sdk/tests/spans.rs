//! The spans of a node, its sessions and streams, as a subscriber sees them.
#![cfg(feature = "tokio")]

mod common;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use common::{opened, soon};
use net_sdk::{Mesh, Reliable, Result};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// What was said, with the names of the spans around it, outermost first.
#[derive(Default)]
struct Heard {
    spans: HashMap<u64, (String, Option<u64>)>,
    entered: HashMap<std::thread::ThreadId, Vec<u64>>,
    said: Vec<(Level, String, Vec<String>)>,
}

impl Heard {
    fn around(&self, mut span: Option<u64>) -> Vec<String> {
        let mut names = Vec::new();
        while let Some((name, parent)) = span.and_then(|id| self.spans.get(&id)) {
            names.insert(0, name.clone());
            span = *parent;
        }
        names
    }

    fn current(&self) -> Option<u64> {
        self.entered.get(&std::thread::current().id())?.last().copied()
    }
}

#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Heard>>);

/// The fields as text.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!("{}={value:?} ", field.name());
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("net")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut heard = self.0.lock().unwrap();
        let id = heard.spans.len() as u64 + 1;
        let parent = span
            .parent()
            .map(Id::into_u64)
            .or_else(|| span.is_contextual().then(|| heard.current()).flatten());
        let mut text = Text(String::new());
        span.record(&mut text);
        heard.spans.insert(id, (format!("{} {}", span.metadata().name(), text.0), parent));
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut heard = self.0.lock().unwrap();
        let parent = event.parent().map(Id::into_u64);
        let parent = parent.or_else(|| event.is_contextual().then(|| heard.current()).flatten());
        let mut text = Text(String::new());
        event.record(&mut text);
        let around = heard.around(parent);
        heard.said.push((*event.metadata().level(), text.0, around));
    }

    fn enter(&self, span: &Id) {
        let mut heard = self.0.lock().unwrap();
        heard.entered.entry(std::thread::current().id()).or_default().push(span.into_u64());
    }

    fn exit(&self, _: &Id) {
        let mut heard = self.0.lock().unwrap();
        heard.entered.entry(std::thread::current().id()).or_default().pop();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_is_told_within_its_node_session_and_stream() -> Result<()> {
    let listener = Listener::default();
    tracing::subscriber::set_global_default(listener.clone()).unwrap();
    let b = Mesh::builder().bind("127.0.0.1:0").start().await?;
    let a = Mesh::builder().bind("127.0.0.1:0").join(&b.invite()).start().await?;
    let peer = soon("connect", a.connect(b.ticket())).await?;
    let (tx, rx) = opened(&b, &peer, Reliable).await?;
    soon("finish", tx.finish()).await?;
    soon("finish", rx.finish()).await?;
    soon("shutdown", a.shutdown()).await;
    soon("shutdown", b.shutdown()).await;

    let heard = listener.0.lock().unwrap();
    let short = |id: net_sdk::EntityId| id.to_string().chars().take(8).collect::<String>();
    let (here, there) = (short(b.id()), short(a.id()));
    // At b: spans of these kinds around a message of this level that holds this text.
    let told = |level: Level, text: &str, kinds: &[&str]| {
        heard.said.iter().any(|(l, said, around)| {
            *l == level
                && said.contains(text)
                && around.len() == kinds.len()
                && around.iter().zip(kinds).all(|(span, kind)| span.starts_with(kind))
                && around[0].contains(&here)
                && around.get(1).is_none_or(|session| session.contains(&there))
                && around.get(2).is_none_or(|stream| stream.contains("label=logs"))
        })
    };
    let (node, session, stream) = (["node "], ["node ", "session "], ["node ", "session ", "stream "]);
    assert!(told(Level::INFO, "connected", &session));
    assert!(told(Level::INFO, "disconnected", &session));
    assert!(told(Level::DEBUG, "opened", &stream));
    assert!(told(Level::DEBUG, "finished by the peer", &stream));
    assert!(told(Level::DEBUG, "closed", &stream));
    assert!(told(Level::TRACE, "received", &node), "a handshake has no session yet");
    assert!(told(Level::TRACE, "number=", &session));
    assert!(told(Level::TRACE, "sent", &session));
    Ok(())
}
