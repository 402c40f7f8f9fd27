/* The narrow path for one instruction set and one `real`, with the flags and macros of variant.c. Apart from it, because
 * constant sizes make many functions: they take twice as long to compile as all the rest. */
#include "narrow.h"

#include "micro/decode.h"
#include "micro/model.h"

const narrow_path NARROW = {micro_workspace_size, micro_train_steps, micro_decode_token};
