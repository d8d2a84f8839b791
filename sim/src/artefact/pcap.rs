//! A packet capture of what the nodes sent: raw IP packets, nanosecond times, readable by tcpdump and
//! Wireshark.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};

use net_proto::path::Ecn;

use super::{Item, Record};

/// Magic of a capture with times in nanoseconds, in the writer's byte order.
const MAGIC: u32 = 0xa1b2_3c4d;
/// Packets begin with the IP header (LINKTYPE_RAW).
const LINKTYPE_RAW: u32 = 101;
/// Most bytes kept of one packet.
const SNAPLEN: u32 = 262_144;
const UDP: u8 = 17;

/// Writes the capture file's header.
pub fn header(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&MAGIC.to_le_bytes())?;
    out.write_all(&2u16.to_le_bytes())?;
    out.write_all(&4u16.to_le_bytes())?;
    out.write_all(&[0; 8])?;
    out.write_all(&SNAPLEN.to_le_bytes())?;
    out.write_all(&LINKTYPE_RAW.to_le_bytes())
}

/// Writes one datagram with IP and UDP headers. Addresses of two families are both written as IPv6.
pub fn packet(
    out: &mut impl Write,
    at: u64,
    src: SocketAddr,
    dst: SocketAddr,
    ecn: Ecn,
    data: &[u8],
) -> io::Result<()> {
    let udp_len = 8 + data.len();
    let mut bytes = Vec::with_capacity(40 + udp_len);
    let pseudo = match (src.ip(), dst.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = u16::try_from(20 + udp_len).unwrap_or(u16::MAX);
            bytes.extend_from_slice(&[0x45, ecn as u8]);
            bytes.extend_from_slice(&total.to_be_bytes());
            // No identification, do not fragment, 64 hops.
            bytes.extend_from_slice(&[0, 0, 0x40, 0, 64, UDP, 0, 0]);
            bytes.extend_from_slice(&from.octets());
            bytes.extend_from_slice(&to.octets());
            let sum = checksum(0, &bytes);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            add(add(0, &from.octets()), &to.octets())
        }
        (from, to) => {
            let wide = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            let (from, to) = (wide(from).octets(), wide(to).octets());
            let class = u32::from(ecn as u8) << 20 | 6 << 28;
            bytes.extend_from_slice(&class.to_be_bytes());
            bytes.extend_from_slice(&u16::try_from(udp_len).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend_from_slice(&[UDP, 64]);
            bytes.extend_from_slice(&from);
            bytes.extend_from_slice(&to);
            add(add(0, &from), &to)
        }
    };
    let start = bytes.len();
    let len = u16::try_from(udp_len).unwrap_or(u16::MAX);
    for word in [src.port(), dst.port(), len, 0] {
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    bytes.extend_from_slice(data);
    let pseudo = pseudo + u64::from(UDP) + udp_len as u64;
    let sum = checksum(pseudo, &bytes[start..]);
    // Zero would say "no checksum" (RFC 768).
    let sum = if sum == 0 { 0xffff } else { sum };
    bytes[start + 6..start + 8].copy_from_slice(&sum.to_be_bytes());
    let size = bytes.len() as u32;
    out.write_all(&((at / 1_000_000_000) as u32).to_le_bytes())?;
    out.write_all(&((at % 1_000_000_000) as u32).to_le_bytes())?;
    out.write_all(&size.to_le_bytes())?;
    out.write_all(&size.to_le_bytes())?;
    out.write_all(&bytes)
}

/// Sixteen-bit words summed.
fn add(sum: u64, bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2).map(|c| u64::from(c[0]) << 8 | c.get(1).map_or(0, |b| u64::from(*b)));
    words.fold(sum, |sum, word| sum + word)
}

/// The Internet checksum (RFC 1071).
fn checksum(start: u64, bytes: &[u8]) -> u16 {
    let mut sum = add(start, bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Writes everything that a record has of datagrams sent.
pub fn write(out: &mut impl Write, record: &Record) -> io::Result<()> {
    header(out)?;
    for entry in &record.entries {
        if let Item::Sent { src, dst, ecn, data, .. } = &entry.what {
            packet(out, entry.at, *src, *dst, *ecn, data)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_add_up() {
        // The sum over a header with its checksum is zero (RFC 1071).
        let mut out = Vec::new();
        let (a, b) = ("10.0.0.1:7000".parse().unwrap(), "10.0.0.2:7000".parse().unwrap());
        packet(&mut out, 1_500_000_000, a, b, Ecn::Ect0, b"odd").unwrap();
        assert_eq!(checksum(0, &out[16..36]), 0);
        assert_eq!(out.len(), 16 + 20 + 8 + 3);
        let mut pseudo = add(add(0, &[10, 0, 0, 1]), &[10, 0, 0, 2]);
        pseudo += u64::from(UDP) + 11;
        assert_eq!(checksum(pseudo, &out[36..]), 0);
    }
}
