/** A line for the person who watches; standard output is for results. The engines have it without a parser of arguments. */
export const say = (line: string) => void process.stderr.write(`${line}\n`);
