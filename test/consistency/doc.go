// Package consistency tests that what several gateways see of the metadata is
// linearizable while voters and block servers are killed, paused and cut off, and gateways die.
//
// Voters and block servers are processes of their own, the test binary started again, so that
// they can be stopped with SIGKILL and SIGSTOP. Every voter and every gateway
// reaches every other process through a proxy of its own (package internal/faultproxy). Gateways are volumes
// in the test's process, each with its own metadata client, connections to the stores, and a rewriter that folds
// files all the time; their calls are recorded and checked with porcupine against a directory, and against the content of files.
//
// Files are written in cells of 4 KiB: single ones, which are kept with the metadata, and up to 64 KiB at once, which are
// blocks on the stores. Each cell of each write has bytes of its own, so that a read, of the whole file, tells for every byte which write it is of. Writes
// are stable, or unstable and followed by COMMIT; files are truncated too.
//
// A history is checked in pieces: each piece has a directory and files of its own and
// few enough operations that the check ends. An operation whose outcome the caller did not learn
// may have taken effect at any time after it began, or never; the model lets it do
// nothing where its precondition does not hold.
//
// What the content of a file promises is less than what its names do: a
// gateway shows its own clients bytes that it has not committed. So a file is written and read through one
// gateway, or written through one and read through another, where a write lasts until it is durable. When the gateway
// dies, what its clients saw and what is left after it are two histories of the same writes: the first one without the reads
// that came after it, the second one with these alone, and each write lasts until it is durable.
package consistency
