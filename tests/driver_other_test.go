//go:build !linux

package tests

func registerDriverChildren() {}
