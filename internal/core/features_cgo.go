//go:build cgo && (linux || windows)

package core

/*
#include "veloq/features.h"
*/
import "C"

const (
	_ = uint(C.VQ_FEATURE_REGISTERED_IO - FeatureRegisteredIO)
	_ = uint(FeatureRegisteredIO - C.VQ_FEATURE_REGISTERED_IO)
)

// Features tries out what the system's sockets can do, once for the process: the bits that are there,
// and those that such a system may have. Blocks.
func Features() (found, known uint32) {
	var k C.uint32_t
	found = uint32(C.vq_features(&k))
	return found, uint32(k)
}
