package wire

import (
	"bufio"
	"io"
	"net"
	"time"
)

// readAheadBytes is the buffer in front of a connection: it takes headers, meta
// and small payloads of several frames with one system call. What is larger
// is read past it, into its destination.
const readAheadBytes = 32 << 10

// frameReader reads the frames of one connection. One goroutine uses it.
type frameReader struct {
	br    *bufio.Reader
	nc    net.Conn
	guard guard
	stall time.Duration

	maxMeta, maxPayload int
	raw                 [headerLen]byte
}

func newFrameReader(t *transport, maxMeta, maxPayload int, stall time.Duration) *frameReader {
	return &frameReader{
		br: bufio.NewReaderSize(t.nc, readAheadBytes), nc: t.nc, guard: t.in, stall: stall,
		maxMeta: maxMeta, maxPayload: maxPayload,
	}
}

// header reads the next frame's header. It is io.EOF only between frames. It
// waits without limit: whether an idle peer is alive is for TCP keep-alive to find out.
func (r *frameReader) header(h *header) error {
	if _, err := io.ReadFull(r.br, r.raw[:]); err != nil {
		return err
	}
	return h.parse(r.raw[:], r.guard.flags, r.maxMeta, r.maxPayload)
}

// body reads what follows the header just read into meta and payload, which
// have exactly its lengths, and checks the frame. Until it returns nil their
// content is not to be trusted.
func (r *frameReader) body(h *header, meta, payload []byte) error {
	if late := r.br.Buffered() < len(meta)+len(payload); late && r.stall > 0 {
		if err := r.nc.SetReadDeadline(time.Now().Add(r.stall)); err != nil {
			return err
		}
		defer r.nc.SetReadDeadline(time.Time{})
	}
	for _, b := range [2][]byte{meta, payload} {
		if _, err := io.ReadFull(r.br, b); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return r.guard.open(h, r.raw[:], meta, payload)
}
