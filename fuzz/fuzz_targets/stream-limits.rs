#![no_main]

net_fuzz::decoder!("stream-limits");
