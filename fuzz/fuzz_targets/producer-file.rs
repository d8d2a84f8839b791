#![no_main]

net_fuzz::decoder!("producer-file");
