/* <linux/sync_file.h> of 4.18: no deadlines. */
#pragma once
#define sync_set_deadline newer_sync_set_deadline
#include_next <linux/sync_file.h>
#undef sync_set_deadline
#undef SYNC_IOC_SET_DEADLINE
