#![no_main]

net_fuzz::decoder!("cursor-text");
