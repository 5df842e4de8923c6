// plain_dq.wgsl on the rows that a quicker kernel marked, a file of its own so that profiles do not count all rows again.
#import "attention/plain_dq.wgsl"
