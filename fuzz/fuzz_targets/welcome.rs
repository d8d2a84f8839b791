#![no_main]

net_fuzz::decoder!("welcome");
