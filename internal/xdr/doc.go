// Package xdr appends and decodes the external data representation of RFC 4506
// by hand, for the hot paths where generated code allocates too much.
//
// Encoding is a family of Append functions in the manner of encoding/binary.
// Decoding is [Decoder], a cursor over one record with a sticky error: a caller
// decodes a whole structure and asks [Decoder.Err] once. Decoded opaques and
// strings are slices of the record, never copies, and every length is checked
// against what is left of the record before anything is allocated, so that a
// hostile length costs nothing. Both sides interoperate with generated types:
// Decoder is an io.Reader, [Writer] an io.Writer.
package xdr
