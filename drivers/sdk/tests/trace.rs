//! A node on a real socket is recorded, and its record lived again.
#![cfg(feature = "tokio")]

mod common;

use common::{fresh, opened, soon};
use net_sdk::{Mesh, Reliable, Result};
use net_shell::trace::{self, Entry, TraceError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_node_replays_to_the_same_outputs() -> Result<()> {
    let file = fresh("trace");
    let b = Mesh::builder().bind("127.0.0.1:0").record(&file).start().await?;
    let a = Mesh::builder().bind("127.0.0.1:0").join(&b.invite()).start().await?;
    let peer = soon("connect", a.connect(b.ticket())).await?;
    let (tx, rx) = opened(&b, &peer, Reliable).await?;
    for i in 0..200u32 {
        tx.send(&vec![i as u8; 1 + 40 * i as usize]).await?;
        let message = soon("message", rx.recv()).await?.expect("a message");
        rx.send(&message).await?;
        assert_eq!(soon("echo", tx.recv()).await?.as_deref(), Some(&message[..]));
    }
    soon("flush", rx.flush()).await?;
    soon("shutdown", a.shutdown()).await;
    soon("shutdown", b.shutdown()).await;

    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert!(Mesh::builder().record(&file).start().await.is_err(), "no record is overwritten");

    // The process ends with the last task; the driver closed the file before it answered.
    let record = trace::read(&file).unwrap();
    assert!(!record.cut);
    let sent =
        record.entries.iter().filter(|e| matches!(e, Entry::Step { bytes, .. } if *bytes != 0)).count();
    let again = record.replay(record.config()).unwrap();
    let (node, steps) = (again.host.node(), again.steps);
    assert_eq!(again.hash, record.hash());
    println!("{steps} steps, {sent} of them with output");
    assert!(sent > 400, "{sent} outputs were compared");
    assert_eq!(node.ledger().delivered.messages, 200);

    // What differs is found: another configuration sends other bytes.
    let other = trace::replay(&file, |config| config.session.paths.max_size = 1250);
    assert!(matches!(other, Err(TraceError::Differs { .. })));

    // A record that was cut off reads to the cut; another file is refused.
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    let cut = trace::read(&file).unwrap();
    assert!(cut.cut && cut.entries.len() + 1 == record.entries.len());
    cut.replay(cut.config()).unwrap();
    std::fs::write(&file, b"nettrace\x01").unwrap();
    assert!(matches!(trace::read(&file), Err(TraceError::Format)));
    std::fs::remove_file(&file).unwrap();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_and_changed_settings_are_part_of_the_record() -> Result<()> {
    let file = fresh("policy");
    let known = net_sdk::Identity::from_seed(&[9; 32]);
    let friend = known.id();
    let b = Mesh::builder()
        .bind("127.0.0.1:0")
        .max_datagram(1300)
        .window(1 << 20)
        .accept_if(move |id| id == friend)
        .record(&file)
        .start()
        .await?;
    let a = Mesh::builder().bind("127.0.0.1:0").mesh(b.secret()).identity(known).start().await?;
    let stranger = Mesh::builder().bind("127.0.0.1:0").mesh(b.secret()).start().await?;
    assert!(soon("stranger", stranger.connect(b.ticket())).await.is_err());
    let peer = soon("connect", a.connect(b.ticket())).await?;
    opened(&b, &peer, Reliable).await?;
    for mesh in [a, stranger, b] {
        soon("shutdown", mesh.shutdown_within(std::time::Duration::from_millis(300))).await;
    }
    let record = trace::read(&file).unwrap();
    let said = |entry: &Entry| match entry {
        Entry::Accepted(id, answer) => Some((*id == friend, *answer)),
        _ => None,
    };
    let answers: Vec<_> = record.entries.iter().filter_map(said).collect();
    assert!(answers.contains(&(true, true)) && answers.contains(&(false, false)), "{answers:?}");
    let again = trace::replay(&file, |_| {}).unwrap();
    assert_eq!(again.hash, record.hash());
    assert!(again.inputs > 10 && again.inputs < again.steps);
    // Without the answers nobody is let in, and that shows.
    let mut mute = record.clone();
    mute.entries.retain(|entry| said(entry).is_none());
    assert!(matches!(mute.replay(mute.config()), Err(TraceError::Differs(_))));
    std::fs::remove_file(&file).unwrap();
    Ok(())
}
