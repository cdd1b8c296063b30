package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/vfs"
)

// maxAnswer bounds a line that is asked for, in bytes.
const maxAnswer = 4096

// confirm asks whether to do what text says, unless yes was given.
func confirm(cmd *cobra.Command, yes bool, format string, args ...any) error {
	if yes {
		return nil
	}
	fmt.Fprintf(cmd.ErrOrStderr(), format+"\nType yes to go on: ", args...)
	line, _ := typed(cmd.Context(), cmd.InOrStdin(), false)
	if ctx := cmd.Context(); ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if strings.TrimSpace(line) == "yes" {
		return nil
	}
	return vfs.Errorf(vfs.KindCanceled, "", "nothing was changed; --yes goes on without asking")
}

// typed reads a line, until ctx ends: a signal is not noticed by who reads. quiet: if in is a terminal, it does not show what is typed.
func typed(ctx context.Context, in io.Reader, quiet bool) (string, error) {
	if f, ok := in.(*os.File); ok && quiet {
		defer silence(f)()
	}
	type read struct {
		line string
		err  error
	}
	done := make(chan read, 1)
	go func() { // it stays until something comes when it is not waited for any more; the program ends before
		line, err := bufio.NewReader(io.LimitReader(in, maxAnswer)).ReadString('\n')
		done <- read{line, err}
	}()
	select {
	case r := <-done:
		return r.line, r.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// silence has a terminal not show what is typed until the function that it returns is called. Of anything else it does nothing.
func silence(f *os.File) (restore func()) {
	fd := int(f.Fd())
	was, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return func() {}
	}
	silent := *was
	silent.Lflag &^= unix.ECHO
	_ = unix.IoctlSetTermios(fd, unix.TCSETS, &silent) // a terminal that cannot still asks
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, was) }
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// readLine reads what is typed at a terminal; quiet does not show it.
func readLine(ctx context.Context, in *os.File, quiet bool) (string, error) {
	s, err := typed(ctx, in, quiet)
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case err != nil && (!errors.Is(err, io.EOF) || s == ""):
		return "", vfs.Errorf(vfs.KindCanceled, "", "nothing was typed")
	}
	return strings.TrimSpace(s), nil
}
