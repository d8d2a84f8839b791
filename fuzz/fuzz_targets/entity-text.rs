#![no_main]

net_fuzz::decoder!("entity-text");
