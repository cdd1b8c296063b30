// Package web tests the dashboard: a real Chromium, driven over its debugging protocol, at a gateway of a cluster with real sockets and files, over TLS. The browser
// trusts the gateway's key and nothing else that it would not trust otherwise.
//
// What NFS clients do is done by one without a kernel, and by that of a Linux kernel in a guest (internal/kclient) where such can run.
//
// Whatever the page's policy refuses and every error that no code has caught fails the tests. Screenshots are written to bin/screenshots of the source tree; look at them
// after a change of the pages. Nothing is decided by time: a test waits until the page shows something, and 5 minutes end one that hangs.
package web
