// Writes an ONNX model of one node with f32 inputs: the few protobuf messages of onnx.proto that this takes.

/** A variable-length integer, low bits first. */
function varint(value) {
  const bytes = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  do {
    const low = Number(rest & 0x7fn);
    rest >>= 7n;
    bytes.push(rest ? low | 0x80 : low);
  } while (rest);
  return bytes;
}

const key = (field, wire) => varint((field << 3) | wire);
const integer = (field, value) => [...key(field, 0), ...varint(value)];
const bytes = (field, content) => [...key(field, 2), ...varint(content.length), ...content];
const text = (field, value) => bytes(field, [...Buffer.from(value)]);
const float = (field, value) => [...key(field, 5), ...new Uint8Array(Float32Array.of(value).buffer)];

/** AttributeProto: name 1, f 2, i 3, type 20 (1 float, 2 int). */
function attribute([name, value]) {
  const typed = Number.isInteger(value)
    ? [...integer(3, value), ...integer(20, 2)]
    : [...float(2, value), ...integer(20, 1)];
  return bytes(5, [...text(1, name), ...typed]);
}

/** ValueInfoProto: a name and a TypeProto with an f32 tensor of this shape. */
function valueInfo(field, name, shape) {
  const dims = shape.flatMap((extent) => bytes(1, integer(1, extent)));
  const tensor = [...integer(1, 1), ...bytes(2, dims)];
  return bytes(field, [...text(1, name), ...bytes(2, bytes(1, tensor))]);
}

/** A model of opset 20 that computes `y`, of shape `output`, from inputs `x0`, `x1`, … of these shapes. */
export function oneNode(type, inputs, output, attributes = {}) {
  const names = inputs.map((_, i) => `x${i}`);
  const node = bytes(1, [
    ...names.flatMap((name) => text(1, name)),
    ...text(2, "y"),
    ...text(4, type),
    ...Object.entries(attributes).flatMap(attribute),
  ]);
  const graph = bytes(7, [
    ...node,
    ...text(2, "graph"),
    ...inputs.flatMap((shape, i) => valueInfo(11, names[i], shape)),
    ...valueInfo(12, "y", output),
  ]);
  const opset = bytes(8, integer(2, 20));
  return { names, model: Uint8Array.from([...integer(1, 9), ...graph, ...opset]) };
}
