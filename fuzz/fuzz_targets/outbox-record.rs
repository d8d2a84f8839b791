#![no_main]

net_fuzz::decoder!("outbox-record");
