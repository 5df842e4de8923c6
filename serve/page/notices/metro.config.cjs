// Expo's bundler: `./device.ts` is a browser's, and on a phone `./device.native.ts` stands for it.
const path = require("node:path");
const { getDefaultConfig } = require("expo/metro-config");

const config = getDefaultConfig(__dirname);
// The types of the protocol are outside.
config.watchFolders = [path.resolve(__dirname, "../..")];
config.resolver.resolveRequest = (context, name, platform) =>
  context.resolveRequest(context, name === "./device.ts" ? "./device.native.ts" : name, platform);
module.exports = config;
