#![no_main]

net_fuzz::decoder!("resp");
