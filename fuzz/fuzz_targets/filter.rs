#![no_main]

net_fuzz::decoder!("filter");
