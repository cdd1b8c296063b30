// Package consistency tests that what several gateways see of the metadata is
// linearizable while voters are killed, paused and cut off.
//
// Voters are processes of their own, the test binary started again, so that
// they can be stopped with SIGKILL and SIGSTOP. Every voter and every gateway
// reaches every voter through a proxy of its own (package internal/faultproxy). Gateways are volumes
// in the test's process, each with its own metadata client; their calls
// are recorded and checked with porcupine against a directory, and against a register for the
// content of files.
//
// A history is checked in pieces: each piece has a directory and files of its own and
// few enough operations that the check ends. An operation whose outcome the caller did not learn
// may have taken effect at any time after it began, or never; the model lets it do
// nothing where its precondition does not hold.
//
// What the content of a file promises is less than what its names do: a
// gateway shows its own clients bytes that it has not committed. So a file is written and read through one
// gateway, or written through one, each write stable, and read through another.
package consistency
