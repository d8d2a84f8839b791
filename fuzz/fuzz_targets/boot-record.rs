#![no_main]

net_fuzz::decoder!("boot-record");
