package vfs

import "time"

// relatimeAge is after what time a read is recorded although nothing was changed since the last one.
const relatimeAge = 24 * time.Hour

// ReadAt reports whether a read at time at changes the time of access, by the rule of relatime (mount(8)): the first read
// after a modification or change does, and the first one of a day. A read from before the last change does not, however late
// it is told: what was set since stays.
func (a *Attr) ReadAt(at time.Time) bool {
	if !at.After(a.Atime) || at.Before(a.Ctime) {
		return false
	}
	return !a.Atime.After(a.Mtime) || !a.Atime.After(a.Ctime) || at.Sub(a.Atime) >= relatimeAge
}
