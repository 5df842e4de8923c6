// Shared by the optimizer kernels. Everything that changes from step to step is read from `hyper` (the order of
// hyperNames in shared.ts) and `scale`, never from params, which a compiled step freezes.
const LR = 0u;
const BETA1 = 1u;
const ONE_MINUS_BETA1 = 2u;
const BETA2 = 3u;
const ONE_MINUS_BETA2 = 4u;
const EPS = 5u;
const WEIGHT_DECAY = 6u;
const BIAS1 = 7u;
const ROOT_BIAS2 = 8u;
const MOMENTUM = 9u;
const FRESH = 10u;
const LATER_FRESH = 11u;
const BASE_LR = 12u;
const LR_DECAY = 13u;
