package vfs

import "context"

// Advice says how a range of a file will be used.
type Advice uint8

const (
	AdviseWillNeed   Advice = iota // it will be read soon
	AdviseSequential               // it will be read from its beginning on
	AdviseDontNeed                 // it will not be read again soon
)

// Advisor is an FS that can use advice. Following it changes nothing that anybody can see but how fast things are.
type Advisor interface {
	// Advise reports whether the advice for n bytes from off (n 0: to the end of the file) is followed. The file is open.
	Advise(ctx context.Context, ino Ino, off, n uint64, a Advice) (bool, error)
}
