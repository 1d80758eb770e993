// The virtio_net_hdr that a TUN with IFF_VNET_HDR puts before each packet (linux/virtio_net.h), 10 bytes, little-endian.

export const VNET_FLAGS: usize = 0; // u8
export const VNET_GSO_TYPE: usize = 1; // u8
export const VNET_HDR_LEN: usize = 2; // u16: bytes of headers before the payload
export const VNET_GSO_SIZE: usize = 4; // u16: payload bytes of each segment
export const VNET_CSUM_START: usize = 6; // u16: where the checksum begins: the transport header
export const VNET_CSUM_OFFSET: usize = 8; // u16: where it goes, after csum_start
export const VNET_LEN: usize = 10;

export const VNET_F_NEEDS_CSUM: u32 = 1; // the checksum field holds the pseudo-header's sum alone
export const VNET_F_DATA_VALID: u32 = 2; // the checksum was verified

export const GSO_NONE: u32 = 0;
export const GSO_TCPV4: u32 = 1;
export const GSO_TCPV6: u32 = 4;
export const GSO_UDP_L4: u32 = 5;
export const GSO_ECN: u32 = 0x80; // a flag beside the type: CWR is set on the first segment

export const PROTOCOL_TCP: u32 = 6;
export const PROTOCOL_UDP: u32 = 17;
export const TCP_HEADER_LEN: u32 = 20;
export const UDP_HEADER_LEN: u32 = 8;
export const TCP_FIN: u32 = 1;
export const TCP_PSH: u32 = 8;
export const TCP_ACK: u32 = 16;
export const TCP_ECE: u32 = 64;
export const TCP_CWR: u32 = 128;
export const TCP_SEQUENCE: usize = 4;
export const TCP_ACKNOWLEDGMENT: usize = 8;
export const TCP_DATA_OFFSET: usize = 12;
export const TCP_FLAGS: usize = 13;
export const TCP_WINDOW: usize = 14;
export const TCP_CHECKSUM: usize = 16;
export const TCP_URGENT: usize = 18;
export const UDP_LENGTH: usize = 4;
export const UDP_CHECKSUM: usize = 6;
export const IPV4_TOTAL_LENGTH: usize = 2;
export const IPV4_ID: usize = 4;
export const IPV4_FRAGMENT: usize = 6; // flags and offset
export const IPV4_FRAGMENT_MASK: u32 = 0x3fff; // more fragments, and the offset
export const IPV4_DF: u32 = 0x4000;
export const IPV4_TTL: usize = 8;
export const IPV4_PROTOCOL: usize = 9;
export const IPV4_CHECKSUM: usize = 10;
export const IPV4_HEADER_LEN: u32 = 20;
export const IPV6_PAYLOAD_LENGTH: usize = 4;
export const IPV6_NEXT_HEADER: usize = 6;
export const IPV6_HEADER_LEN: u32 = 40;
export const IPV6_HOP_OPTIONS: u32 = 0;
export const IPV6_ROUTING: u32 = 43;
export const IPV6_DESTINATION_OPTIONS: u32 = 60;

// @ts-ignore: decorator
@inline
export function be16(address: usize, offset: usize): u32 {
  return <u32>bswap<u16>(load<u16>(address + offset));
}

// @ts-ignore: decorator
@inline
export function putBe16(address: usize, value: u32, offset: usize): void {
  store<u16>(address + offset, bswap<u16>(<u16>value));
}
