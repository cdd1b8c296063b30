package kclient

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// The function unblock_signals of arch/um/os-Linux/signal.c, as Debian's compiler laid it out, says that interrupts are off before it says that none waits:
//
//	test   %ebx,%ebx              85 db        ebx: the interrupts that wait
//	je     ...                    74 ..
//	movabs $signals_pending,%rcx  48 b9 ....
//	xor    %edx,%edx              31 d2
//	mov    %edx,(%rax)            89 10        signals_enabled = 0
//	movabs $...,%rax              48 b8 ....
//	mov    %edx,(%rcx)            89 11        signals_pending = 0
//	call   *%rax                  ff d0
//
// The source has these two the other way round, and nothing there that keeps a compiler to it. An interrupt that comes between them is noted as one that waits, and forgotten.
const (
	waitsAt    = 14 // from the test to the first store
	storesLen  = 18 // from xor to call
	addressLen = 8
)

// ordered returns the kernel's image with the two stores in the order of the source, and whether it is one in which they are not, at exactly one place.
func ordered(image []byte) ([]byte, bool) {
	first := []byte{0x31, 0xd2, 0x89, 0x10, 0x48, 0xb8}
	last := []byte{0x89, 0x11, 0xff, 0xd0}
	found := -1
	for from := 0; ; {
		i := bytes.Index(image[from:], first)
		if i < 0 {
			break
		}
		i += from
		from = i + 1
		before := i - waitsAt
		if before < 0 || i+storesLen > len(image) || !bytes.Equal(image[i+len(first)+addressLen:i+storesLen], last) {
			continue
		}
		if p := image[before:]; p[0] != 0x85 || p[1] != 0xdb || p[2] != 0x74 || p[4] != 0x48 || p[5] != 0xb9 {
			continue
		}
		if found >= 0 {
			return image, false
		}
		found = i
	}
	if found < 0 {
		return image, false
	}
	mended := bytes.Clone(image)
	at := mended[found+2 : found+storesLen-2]
	call := bytes.Clone(at[2 : 4+addressLen]) // movabs
	copy(at, []byte{0x89, 0x11, 0x89, 0x10})
	copy(at[4:], call)
	return mended, true
}

// kernelFile returns the kernel to run: a copy in dir with its stores in order, or the installed one if it is not known to need that, and says so.
func kernelFile(dir string, says io.Writer) (string, error) {
	installed, err := exec.LookPath("linux.uml")
	if err != nil {
		return "", err
	}
	image, err := os.ReadFile(installed)
	if err != nil {
		return "", err
	}
	mended, ok := ordered(image)
	if !ok {
		fmt.Fprintf(says, "kclient: %s runs as it is: not the build whose unblock_signals is known\n", installed)
		return installed, nil
	}
	file := filepath.Join(dir, "linux.uml")
	// A child that is forked while the file is open for writing has it open until its own exec, and the file cannot be executed until then.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return file, os.WriteFile(file, mended, 0o755)
}
