/* driver.c: chooses a driver implementation and passes calls on to it. */
#include "platform.h"

#include <string.h>

static bool power_of_two(uint32_t n, uint32_t min, uint32_t max)
{
	return n >= min && n <= max && (n & (n - 1)) == 0;
}

static bool buffers_valid(uint32_t count, uint32_t size_bytes)
{
	return power_of_two(count, 2, 32768) && size_bytes >= 256 && size_bytes <= 1u << 20;
}

static bool config_valid(const vq_driver_config *config)
{
	return power_of_two(config->sq_entries, 8, 32768) &&
	       power_of_two(config->cq_entries, config->sq_entries, 65536) &&
	       buffers_valid(config->buffer_count, config->buffer_size_bytes) &&
	       buffers_valid(config->whole_count, config->whole_size_bytes) &&
	       (config->packet_count == 0 ||
		buffers_valid(config->packet_count, config->packet_size_bytes));
}

/* Begins the report of the next driver to try. */
static void report_next(vq_driver_report *report, uint32_t kind)
{
	vq_driver_report next = { .kind = kind, .attempt_count = report->attempt_count };

	memcpy(next.attempts, report->attempts, sizeof(next.attempts));
	*report = next;
}

static void report_failure(vq_driver_report *report)
{
	VQ_ASSERT(report->attempt_count < VQ_DRIVER_ATTEMPTS_MAX);
	report->attempts[report->attempt_count++] = (vq_driver_attempt){
		.kind = report->kind,
		.failed_step = report->failed_step,
		.error = report->error,
		.missing_op = report->missing_op,
	};
}

int vq_driver_create(const vq_driver_config *config, vq_driver_report *report, vq_driver **out)
{
	memset(report, 0, sizeof(*report));
	report->failed_step = VQ_STEP_CONFIG;
	report->error = -VQ_EINVAL;
	*out = NULL;
	if (!config_valid(config))
		return -VQ_EINVAL;
	for (size_t i = 0; vq__drivers[i] != NULL; i++) {
		const vq__driver_ops *ops = vq__drivers[i];
		if (config->kind != VQ_DRIVER_AUTO && config->kind != ops->kind)
			continue;
		report_next(report, ops->kind);
		int rc = ops->create(config, report, out);
		report->error = rc;
		if (rc == 0) {
			report->failed_step = VQ_STEP_NONE;
			if ((*out)->ops == NULL)
				(*out)->ops = ops;
			return 0;
		}
		report_failure(report);
	}
	return report->error;
}

void vq_driver_destroy(vq_driver *driver)
{
	driver->ops->destroy(driver);
}

void vq_driver_view_get(const vq_driver *driver, vq_driver_view *view)
{
	*view = driver->view;
}

int vq_driver_enter(vq_driver *driver, uint32_t sq_tail, uint32_t wait_count)
{
	return driver->ops->enter(driver, sq_tail, wait_count);
}

int vq_driver_enter_delayed(vq_driver *driver, uint32_t sq_tail, uint32_t wait_count,
			    uint32_t delay_us)
{
	if (driver->ops->enter_delayed == NULL)
		return driver->ops->enter(driver, sq_tail, 1);
	return driver->ops->enter_delayed(driver, sq_tail, wait_count, delay_us);
}

void vq_driver_prep_wake(const vq_driver *driver, vq_sqe *sqe)
{
	driver->ops->prep_wake(driver, sqe);
}
