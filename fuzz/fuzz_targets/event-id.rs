#![no_main]

net_fuzz::decoder!("event-id");
