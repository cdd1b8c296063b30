// Package fsm is the state machine of one metadata shard.
package fsm
