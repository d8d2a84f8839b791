#![no_main]

net_fuzz::decoder!("stream-frames");
