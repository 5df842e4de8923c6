import hljs from "highlight.js/lib/core";
import bash from "highlight.js/lib/languages/bash";
import json from "highlight.js/lib/languages/json";
import python from "highlight.js/lib/languages/python";
import typescript from "highlight.js/lib/languages/typescript";

/** The highlighter with the languages that answers have most. */
export function start(): typeof hljs {
  for (const [name, language] of Object.entries({ bash, json, python, typescript }))
    hljs.registerLanguage(name, language);
  return hljs;
}
