package mux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/rackfs/rackfs/vfs"
)

const (
	preludeMagic = "RKMX"
	preludeLen   = 8
	helloMagic   = "RKMH"
	version      = 1

	kindRPC   = 1
	kindRaft  = 2
	kindRaft2 = 3 // without TLS only, which agrees on the protocol otherwise

	maxReason = 512 // bytes of a refusal's reason
)

// ErrClosed is returned by Accept after the listener or its mux was closed.
var ErrClosed = fmt.Errorf("mux: %w", net.ErrClosed)

func appendPrelude(b []byte, kind byte, shard uint16) []byte {
	b = append(b, preludeMagic...)
	b = append(b, version, kind)
	return binary.BigEndian.AppendUint16(b, shard)
}

func readPrelude(r io.Reader) (kind byte, shard uint16, err error) {
	var p [preludeLen]byte
	if _, err := io.ReadFull(r, p[:]); err != nil {
		return 0, 0, err
	}
	if string(p[:4]) != preludeMagic {
		return 0, 0, errors.New("not a connection of this protocol")
	}
	if p[4] != version {
		return 0, 0, fmt.Errorf("prelude version %d, this release speaks %d", p[4], version)
	}
	return p[5], binary.BigEndian.Uint16(p[6:]), nil
}

// hello says which replica of which shard of which cluster speaks to which.
type hello struct {
	shard   uint16
	cluster string
	from    string
	to      string
}

func (h hello) append(b []byte) ([]byte, error) {
	b = append(b, helloMagic...)
	b = append(b, version)
	b = binary.BigEndian.AppendUint16(b, h.shard)
	for _, s := range []string{h.cluster, h.from, h.to} {
		if len(s) > 255 {
			return nil, vfs.Errorf(vfs.KindInvalid, "mux.hello", "%q is longer than 255 bytes", s)
		}
		b = append(append(b, byte(len(s))), s...)
	}
	return b, nil
}

func readHello(r io.Reader) (h hello, err error) {
	var p [7]byte
	if _, err := io.ReadFull(r, p[:]); err != nil {
		return h, err
	}
	if string(p[:4]) != helloMagic {
		return h, errors.New("malformed hello")
	}
	if p[4] != version {
		return h, fmt.Errorf("hello version %d, this release speaks %d", p[4], version)
	}
	h.shard = binary.BigEndian.Uint16(p[5:])
	for _, s := range []*string{&h.cluster, &h.from, &h.to} {
		if _, err := io.ReadFull(r, p[:1]); err != nil {
			return h, err
		}
		b := make([]byte, p[0])
		if _, err := io.ReadFull(r, b); err != nil {
			return h, err
		}
		*s = string(b)
	}
	return h, nil
}

func writeAnswer(w io.Writer, refused error) error {
	var reason string
	var status byte
	if refused != nil {
		status, reason = 1, refused.Error()
		reason = reason[:min(len(reason), maxReason)]
	}
	b := append(make([]byte, 0, 3+len(reason)), status)
	b = binary.BigEndian.AppendUint16(b, uint16(len(reason)))
	_, err := w.Write(append(b, reason...))
	return err
}

func readAnswer(r io.Reader) error {
	var p [3]byte
	if _, err := io.ReadFull(r, p[:]); err != nil {
		return err
	}
	n := int(binary.BigEndian.Uint16(p[1:]))
	if n > maxReason {
		return errors.New("malformed answer to hello")
	}
	reason := make([]byte, n)
	if _, err := io.ReadFull(r, reason); err != nil {
		return err
	}
	if p[0] != 0 {
		return vfs.Errorf(vfs.KindIncompatible, "mux.dial", "refused by the other end: %s", reason)
	}
	return nil
}
