import { Column, Entity, PrimaryColumn } from 'typeorm';

export type Role = 'user' | 'admin';

@Entity('users')
export class User {
  @PrimaryColumn('uuid')
  id: string;

  /** Lower-cased. */
  @Column('text')
  email: string;

  /** argon2id, PHC string. */
  @Column('text', { name: 'password_hash' })
  passwordHash: string;

  @Column('text')
  role: Role;

  @Column('timestamptz', { name: 'created_at', default: () => 'now()' })
  createdAt: Date;
}
