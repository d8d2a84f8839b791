#![no_main]

net_fuzz::decoder!("packet-header");
