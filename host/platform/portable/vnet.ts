// The virtio_net_hdr before a packet (linux/virtio_net.h), 10 bytes, little-endian, as the core reads and writes it.

export const VNET_FLAGS = 0; // u8
export const VNET_GSO_TYPE = 1; // u8
export const VNET_HDR_LEN = 2; // u16: bytes of headers before the payload
export const VNET_GSO_SIZE = 4; // u16: payload bytes of each segment
export const VNET_CSUM_START = 6; // u16: where the checksum begins: the transport header
export const VNET_CSUM_OFFSET = 8; // u16: where it goes, after csum_start
export const VNET_LEN = 10;

export const VNET_F_NEEDS_CSUM = 1; // the checksum field holds the pseudo-header's sum alone
export const VNET_F_DATA_VALID = 2; // the checksum was verified

export const GSO_NONE = 0;
export const GSO_TCPV4 = 1;
export const GSO_TCPV6 = 4;
export const GSO_UDP_L4 = 5;
