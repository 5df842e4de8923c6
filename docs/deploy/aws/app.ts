import { App } from "aws-cdk-lib";
import { KilnStack } from "./stack.ts";

/** `npx cdk deploy -c domain=… -c certificate=ARN -c connection=ARN -c repository=owner/name`. */
const app = new App();
const given = (name: string): string => {
  const value: unknown = app.node.tryGetContext(name);
  if (typeof value === "string" && value !== "") return value;
  throw new Error(`-c ${name}=… is missing: README.md says what it is`);
};
new KilnStack(app, "Kiln", {
  domain: given("domain"),
  certificateArn: given("certificate"),
  connectionArn: given("connection"),
  repository: given("repository"),
  env: { account: process.env.CDK_DEFAULT_ACCOUNT, region: process.env.CDK_DEFAULT_REGION },
});
