// Up to seven inputs; IN0, IN1, … are an element type or a vec4 of it.
@group(0) @binding(1) var<storage, read> in0: array<IN0>;
#if HAS_1
@group(0) @binding(2) var<storage, read> in1: array<IN1>;
#endif
#if HAS_2
@group(0) @binding(3) var<storage, read> in2: array<IN2>;
#endif
#if HAS_3
@group(0) @binding(4) var<storage, read> in3: array<IN3>;
#endif
#if HAS_4
@group(0) @binding(5) var<storage, read> in4: array<IN4>;
#endif
#if HAS_5
@group(0) @binding(6) var<storage, read> in5: array<IN5>;
#endif
#if HAS_6
@group(0) @binding(7) var<storage, read> in6: array<IN6>;
#endif
@group(0) @binding(8) var<storage, read_write> out: array<OUT>;
