package state

// Served reports whether the session that the call came by is still here: its client was not taken by another server and has not ended.
func (c *Call) Served() bool {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	return !c.session.ended
}

// Followed reports whether a newer request of the slot was accepted here: the client has the answer to this one, or has given it up.
func (c *Call) Followed() bool {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	return c.slot.wide > c.Sequence
}
