package fsm

// Keys of the machine itself.
var (
	keyFormat = []byte("m/format")
	keyState  = []byte("m/state")
)
