/*
 * The inline functions of veloq/doorbell.h with linkage. Changes when that list does; the handle
 * behind the doorbell is in doorbell_<platform>.c.
 */
#include "veloq/doorbell.h"

void vq_doorbell_prepare_extern(vq_doorbell *d)
{
	vq_doorbell_prepare(d);
}

void vq_doorbell_awake_extern(vq_doorbell *d)
{
	vq_doorbell_awake(d);
}

bool vq_doorbell_claim_extern(vq_doorbell *d)
{
	return vq_doorbell_claim(d);
}
