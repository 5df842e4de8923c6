import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";

/** The stack of docs/deploy/aws, synthesised without a network or an account. */
const folder = path.resolve("docs/deploy/aws");
const packages = path.join(folder, "node_modules");
const isInstalled = ["aws-cdk-lib", "constructs"].every((name) => existsSync(path.join(packages, name)));
const importPath = (file: string): Promise<never> => import(pathToFileURL(file).href) as Promise<never>;

interface Statement {
  Effect: string;
  Action: string | string[];
  Resource: unknown;
  Condition?: unknown;
}
interface Resource {
  Type: string;
  Properties: Record<string, unknown>;
}

describe.skipIf(!isInstalled)("the stack of AWS (npm install in docs/deploy/aws)", () => {
  let resources: Record<string, Resource>;
  const ofType = (type: string) => Object.values(resources).filter(({ Type }) => Type === `AWS::${type}`);

  beforeAll(async () => {
    const { App } = await importPath(path.join(packages, "aws-cdk-lib/index.js"));
    const { Template } = await importPath(path.join(packages, "aws-cdk-lib/assertions/index.js"));
    const { KilnStack } = await importPath(path.join(folder, "stack.ts"));
    const arn = (rest: string) => `arn:aws:${rest}`;
    const stack = new (KilnStack as new (...args: unknown[]) => unknown)(
      new (App as new () => unknown)(),
      "Kiln",
      {
        domain: "kiln.example.org",
        certificateArn: arn("acm:eu-central-1:123456789012:certificate/x"),
        connectionArn: arn("codeconnections:eu-central-1:123456789012:connection/x"),
        repository: "owner/name",
        env: { account: "123456789012", region: "eu-central-1" },
      },
    );
    const template = (Template as { fromStack(stack: unknown): { toJSON(): unknown } }).fromStack(stack);
    ({ Resources: resources } = template.toJSON() as { Resources: typeof resources });
  });

  it("type-checks", () => {
    execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", "-p", folder], { stdio: "inherit" });
  });

  it("keeps files and the database closed, encrypted and backed up", () => {
    const closed = {
      BlockPublicAcls: true,
      BlockPublicPolicy: true,
      IgnorePublicAcls: true,
      RestrictPublicBuckets: true,
    };
    expect(ofType("S3::Bucket")).toHaveLength(2);
    for (const { Properties } of ofType("S3::Bucket")) {
      expect(Properties).toMatchObject({ PublicAccessBlockConfiguration: closed, BucketEncryption: {} });
    }
    const insecure = { Bool: { "aws:SecureTransport": "false" } };
    for (const { Properties } of ofType("S3::BucketPolicy")) {
      const { Statement } = Properties.PolicyDocument as { Statement: Statement[] };
      expect(Statement).toContainEqual(expect.objectContaining({ Effect: "Deny", Condition: insecure }));
    }
    const [database, ...others] = ofType("RDS::DBInstance");
    expect(others).toEqual([]);
    expect(database!.Properties).toMatchObject({
      ...{ StorageEncrypted: true, DeletionProtection: true, BackupRetentionPeriod: 7, Engine: "postgres" },
      PubliclyAccessible: false,
    });
    expect(ofType("EFS::FileSystem")[0]!.Properties).toMatchObject({ Encrypted: true });
  });

  it("runs two containers with a GPU each, not as root, with secrets that stand in no template", () => {
    const tasks = ofType("ECS::TaskDefinition").map(
      ({ Properties }) => (Properties.ContainerDefinitions as Record<string, unknown>[])[0]!,
    );
    expect(tasks).toHaveLength(2);
    for (const container of tasks) {
      expect(container).toMatchObject({
        ...{ User: "10001:10001", ReadonlyRootFilesystem: true },
        ResourceRequirements: [{ Type: "GPU", Value: "1" }],
      });
      const secrets = (container.Secrets as { Name: string }[]).map(({ Name }) => Name);
      expect(secrets.sort()).toEqual(["DB_HOST", "DB_PASSWORD", "DB_PORT", "DB_USER", "KILN_API_KEY"]);
      const plain = (container.Environment as { Name: string }[]).map(({ Name }) => Name);
      expect(plain.filter((name) => /PASSWORD|SECRET|KEY|DATABASE_URL/.test(name))).toEqual([]);
    }
    expect(JSON.stringify(tasks)).toMatch(/kiln\.mjs serve[\s\S]*kiln\.mjs jobs work/);
  });

  it("lets in HTTPS from anywhere and nothing else", () => {
    const open = ofType("EC2::SecurityGroup")
      .flatMap(({ Properties }) => (Properties.SecurityGroupIngress ?? []) as Record<string, unknown>[])
      .filter(({ CidrIp }) => CidrIp === "0.0.0.0/0");
    expect(open.map(({ FromPort, ToPort }) => [FromPort, ToPort])).toEqual([[443, 443]]);
    for (const { Properties } of ofType("EC2::SecurityGroupIngress"))
      expect(Properties.CidrIp).toBeUndefined();
    const [group] = ofType("ElasticLoadBalancingV2::TargetGroup");
    expect(group!.Properties).toMatchObject({ HealthCheckPath: "/ready" });
  });

  it("gives roles what they need: no action by a star, no administrator, files by their prefix", () => {
    const statements = ofType("IAM::Policy").flatMap(
      ({ Properties }) => (Properties.PolicyDocument as { Statement: Statement[] }).Statement,
    );
    expect(statements.length).toBeGreaterThan(10);
    const actions = (one: Statement) => [one.Action].flat();
    // These know no resource: logging in to the registry, what the agent of ECS says of itself, new versions of tasks.
    const everywhere =
      /^(ecr:GetAuthorizationToken|ecs:(DiscoverPollEndpoint|(Register|Describe)TaskDefinition)|logs:(CreateLogStream|PutLogEvents))$/;
    for (const statement of statements) {
      expect(actions(statement)).not.toContain("*");
      if (statement.Resource === "*" && statement.Condition === undefined)
        for (const action of actions(statement)) expect(action).toMatch(everywhere);
    }
    expect(statements.filter((one) => actions(one).includes("iam:PassRole") && one.Resource === "*")).toEqual(
      [],
    );
    expect(ofType("Lambda::Function")).toEqual([]);
    const roles = JSON.stringify(ofType("IAM::Role"));
    expect(roles).not.toMatch(/AdministratorAccess|PowerUserAccess|FullAccess/);
    const ofTasks = Object.entries(resources).filter(
      ([name, { Type }]) => Type === "AWS::IAM::Policy" && /TaskTaskRole/.test(name),
    );
    expect(ofTasks).toHaveLength(2);
    for (const [, { Properties }] of ofTasks) {
      const allowed = (Properties.PolicyDocument as { Statement: Statement[] }).Statement;
      expect(allowed.flatMap(actions).sort()).toEqual([
        ...["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"],
        ...["s3:DeleteObject", "s3:GetObject", "s3:ListBucket", "s3:PutObject"],
      ]);
      const objects = allowed.find((one) => actions(one).includes("s3:PutObject"))!;
      expect(JSON.stringify(objects.Resource)).toContain("/files/*");
    }
  });

  it("delivers what was pushed: source, tests and image, then both services", () => {
    const [pipeline] = ofType("CodePipeline::Pipeline");
    const stages = pipeline!.Properties.Stages as { Name: string; Actions: { Name: string }[] }[];
    expect(stages.map(({ Name, Actions }) => [Name, Actions.map((one) => one.Name)])).toEqual([
      ["Source", ["main"]],
      ["Build", ["test-and-build"]],
      ["Deploy", ["server", "worker"]],
    ]);
    expect(JSON.stringify(ofType("CodeBuild::Project"))).toContain(".ci/run");
  });
});
