#![no_main]

net_fuzz::decoder!("bus-frame");
