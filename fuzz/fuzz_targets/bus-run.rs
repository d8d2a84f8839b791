#![no_main]

net_fuzz::decoder!("bus-run");
