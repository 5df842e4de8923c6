#!/usr/bin/env node
import { load } from "./load.mjs";
import { checkNode } from "./prepare.mjs";

checkNode();
await load("cli");
